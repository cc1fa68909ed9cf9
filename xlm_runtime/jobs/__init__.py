"""Files of texts into files of answers: formats, and a job that goes on where it was cut."""
