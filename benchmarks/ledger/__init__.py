"""What the ledger is good for: how well answers are traced to documents, and what that costs."""
