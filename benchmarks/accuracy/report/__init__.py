"""From records of training runs to tables, figures and the page."""
