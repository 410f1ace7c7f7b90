"""The platform: data, domain logic, REST API and durable jobs of aiia, on Django."""
