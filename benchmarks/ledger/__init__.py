"""What a ledger of many documents costs, and how well answers are traced to documents."""
