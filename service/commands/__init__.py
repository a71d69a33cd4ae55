"""The commands of `infold` that talk to a running server, by noun."""
