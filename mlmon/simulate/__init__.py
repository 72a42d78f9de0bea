"""What a configuration will do before it pages anyone."""
