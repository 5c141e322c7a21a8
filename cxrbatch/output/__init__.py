"""What people and PACS read: the ledger, the output folder, reports, tables and metrics."""
