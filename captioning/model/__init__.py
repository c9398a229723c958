"""The model: pixels to features to words. It knows neither the database nor the queue."""
