"""A film from outside to a stored result: intake, sandbox, worker."""
