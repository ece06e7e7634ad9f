"""Work from start to end: plain functions with typed results and a progress callback."""
