"""Speed, measured beside what users would pick instead, in the same run."""
