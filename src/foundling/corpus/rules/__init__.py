"""Rules on columns: each names what it drops or changes, and why, and counts it."""
