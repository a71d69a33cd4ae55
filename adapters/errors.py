"""Everything that can go wrong in the method, as one tree.

Raised where the value is known. A caller's mistake is an `AdapterError`; a broken guarantee of ours is an `assert`.
"""


class AdapterError(Exception):
    """Root of all errors of `adapters`."""


class UnsupportedArchitecture(AdapterError):
    """The model has no layers that we know how to change."""


class ModelNotLoadable(AdapterError):
    """The path or hub id does not lead to a causal language model and its tokenizer."""


class InvalidConfig(AdapterError, ValueError):
    """A setting of the method is outside its range."""


class InvalidTemplate(AdapterError, ValueError):
    """A view template lacks what it must have."""


class EmptyDocument(AdapterError, ValueError):
    """A document has no token to learn from."""


class InvalidCanary(AdapterError, ValueError):
    """A canary cannot be asked of this model."""


class CorruptCheckpoint(AdapterError):
    """A file of ours is torn, foreign or was made for another base model."""
