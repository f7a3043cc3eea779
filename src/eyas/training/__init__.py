"""Making a draft head: answers of the target (`distil`), then a head that predicts them (`head`)."""
