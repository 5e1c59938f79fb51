"""What a model makes of questions with and without their images, looked at in three ways: see the modules."""
