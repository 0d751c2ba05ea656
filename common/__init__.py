"""What the courses share below utils: pictures, trained weights as files, several processes."""
