"""Coverage-guided fuzzing of what strangers feed, by atheris, from a kept corpus."""
