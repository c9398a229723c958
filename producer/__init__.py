"""Files to the queue, rows to answers: the command line `producer`. Never loads torch."""
