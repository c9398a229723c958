"""The comparison of LSTM and GRU: many runs, one HTML report. Knows nothing of bundles."""
