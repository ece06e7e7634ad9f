"""The web application: pages for readers, REST for programs."""
