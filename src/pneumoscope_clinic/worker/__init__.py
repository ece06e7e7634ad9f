"""An image from outside to a stored result: intake, sandbox, worker."""
