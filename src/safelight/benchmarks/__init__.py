"""Our work timed beside that of others: same weights, same inputs, in turns on one machine."""
