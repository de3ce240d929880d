"""The Django application that is measured."""
