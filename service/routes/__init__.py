"""HTTP routes: thin; they raise and never format errors."""
