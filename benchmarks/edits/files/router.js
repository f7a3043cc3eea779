// A router of web requests: patterns with parameters, middleware, and error handlers.

class Route {
  constructor(method, pattern, handler) {
    this.method = method;
    this.pattern = pattern;
    this.handler = handler;
    this.names = [];
    const source = pattern.replace(/:(\w+)/g, (_, name) => {
      this.names.push(name);
      return "([^/]+)";
    });
    this.expression = new RegExp(`^${source}$`);
  }

  match(method, path) {
    if (method !== this.method) {
      return null;
    }
    const found = this.expression.exec(path);
    if (found === null) {
      return null;
    }
    const params = {};
    this.names.forEach((name, index) => {
      params[name] = decodeURIComponent(found[index]);
    });
    return params;
  }
}

class Router {
  constructor() {
    this.routes = [];
    this.middleware = [];
    this.errorHandler = (error, request, response) => {
      response.status = 500;
      response.body = { error: error.message };
    };
  }

  use(handler) {
    this.middleware.push(handler);
    return this;
  }

  get(pattern, handler) {
    return this.add("GET", pattern, handler);
  }

  post(pattern, handler) {
    return this.add("POST", pattern, handler);
  }

  remove(pattern, handler) {
    return this.add("DELETE", pattern, handler);
  }

  add(method, pattern, handler) {
    this.routes.push(new Route(method, pattern, handler));
    return this;
  }

  onError(handler) {
    this.errorHandler = handler;
    return this;
  }

  find(method, path) {
    for (const route of this.routes) {
      const params = route.match(method, path);
      if (params !== null) {
        return { route, params };
      }
    }
    return null;
  }

  async handle(request) {
    const response = { status: 200, headers: {}, body: null };
    try {
      for (const handler of this.middleware) {
        const done = await handler(request, response);
        if (done) {
          return response;
        }
      }
      const found = this.find(request.method, request.path);
      if (found === null) {
        response.status = 404;
        response.body = { error: `nothing at ${request.path}` };
        return response;
      }
      request.params = found.params;
      response.body = await found.route.handler(request, response);
    } catch (error) {
      await this.errorHandler(error, request, response);
    }
    return response;
  }
}

function logger(write) {
  return async (request) => {
    write(`${new Date().toISOString()} ${request.method} ${request.path}`);
    return false;
  };
}

function requireToken(token) {
  return async (request, response) => {
    if (request.headers.authorization === `Bearer ${token}`) {
      return false;
    }
    response.status = 401;
    response.body = { error: "a token is needed" };
    return true;
  };
}

module.exports = { Route, Router, logger, requireToken };
