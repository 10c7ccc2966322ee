"""`ark report`: one HTML file that holds a whole run. `data` takes it from the ledger, `page` writes it down."""
