"""The learning benchmark: infold against its rivals on streams of documents, in one run."""
