"""What a ledger of many documents costs."""
