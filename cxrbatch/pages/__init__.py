"""What all pages, tables and terminals share: page frame, wording, cells of tables, plain text, plot style."""
