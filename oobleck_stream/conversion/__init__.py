"""From one container of weights into another, tensor by tensor."""
