"""Shared by all tests: small models on few cores want one thread, and property tests keep no state on disk."""

import torch
from hypothesis import HealthCheck, settings

settings.register_profile("infold", max_examples=40, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("infold")
torch.set_num_threads(1)
