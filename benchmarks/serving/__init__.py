"""How fast infold serves, beside what else serves the same model."""
