"""The demo page of ``clouds demo``: a trained model in the browser."""
