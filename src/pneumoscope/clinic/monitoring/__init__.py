"""What changes over time: the films, the answers, and how readers agree."""
