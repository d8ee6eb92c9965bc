"""A test double of Android's adbd, for the real adb client."""
