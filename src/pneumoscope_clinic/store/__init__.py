"""Studies, images, jobs, accounts and the audit log in one database, and the images beside it."""
