"""The ledger, a SQLite database that knows every file and study, and is the queue. Start at `ledger`."""
