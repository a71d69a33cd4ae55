"""What `infold doctor` looks at: each check a small function from settings to findings, in one list a subject."""
