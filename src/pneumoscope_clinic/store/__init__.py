"""Studies, films, jobs, accounts and the audit log in one database, and the films beside it."""
