"""What the gateway keeps on disk: one database, and one folder of files."""
