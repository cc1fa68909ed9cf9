"""What clients of a server send and get, whichever server it is: parameters of a request, texts and answers as JSON."""
