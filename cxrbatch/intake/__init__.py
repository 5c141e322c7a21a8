"""Files in, display images and engine input out; knows nothing of engines or reports."""
