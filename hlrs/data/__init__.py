"""Images: where they come from, how they are split, how they reach the device."""
