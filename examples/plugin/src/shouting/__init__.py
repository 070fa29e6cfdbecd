"""A labeler that an installed package offers."""
