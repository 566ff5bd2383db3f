"""What lies on the disk, and under which key."""
