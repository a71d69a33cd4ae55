"""The server: HTTP, jobs, versions, generation, metrics."""
