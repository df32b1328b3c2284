// Keeps a page fed: by server-sent events where the browser has them, else by a request every few seconds. Written in ES5, for
// tablets that nobody updates any more.
//
// live.listen({stream, poll, show(data), silent(since)}): `show` gets each state; `silent` is told since when nothing was heard,
// as a Date, or null once the line is alive again. What was shown stays: nothing here clears it.
// live.get(url, done(data, request)): one request; `data` is null if it failed.
var live = (function () {
  "use strict";

  // The server says something every 15 s: two of these lost, and the line is dead, whatever the browser believes.
  var SILENCE_MS = 35000;
  // A break shorter than this is not worth a customer's attention.
  var GRACE_MS = 5000;
  var RETRY_MS = 3000;
  var POLL_MS = 3000;
  // A page that ran nothing for so long was asleep, with its tablet: the stream is dead, whatever the browser believes.
  var SLEPT_MS = 10000;
  var REQUEST_MS = 10000;

  // Milliseconds that no clock setting makes jump.
  function now() {
    return window.performance && window.performance.now ? window.performance.now() : new Date().getTime();
  }

  function parse(text) {
    try {
      return JSON.parse(text);
    } catch (broken) {
      return null;
    }
  }

  // Nobody knows this page any more: it was paired once, and that was taken back. Whoever stands before it sees where pages are paired.
  function invite() {
    window.location.replace("/pair?next=" + encodeURIComponent(window.location.pathname + window.location.search));
  }

  function get(url, done) {
    var request = new XMLHttpRequest();
    var over = false;
    function end(data) {
      if (!over) {
        over = true;
        done(data, request);
      }
    }
    request.open("GET", url, true);
    request.timeout = REQUEST_MS;
    request.onload = function () {
      if (request.status === 401) {
        invite();
      }
      end(request.status === 200 ? parse(request.responseText) : null);
    };
    request.onerror = request.onabort = request.ontimeout = function () {
      end(null);
    };
    request.send();
  }

  // The server was upgraded: this page loads itself anew, once for each build.
  function renew(build) {
    var mine = document.documentElement.getAttribute("data-build");
    if (!build || build === mine) {
      return;
    }
    try {
      if (window.sessionStorage.getItem("renewed-for") === build) {
        return;
      }
      window.sessionStorage.setItem("renewed-for", build);
      window.location.reload();
    } catch (noStorage) {
      // Without a memory it could reload for ever; an old page is better.
      return;
    }
  }

  function listen(options) {
    var heardAt = now();
    var heardOn = new Date();
    var broken = false;
    var told = false;
    var source = null;
    var retry = null;
    // By the clock on the wall: others stand still while a tablet sleeps.
    var awakeAt = new Date().getTime();

    function heard() {
      heardAt = now();
      heardOn = new Date();
      broken = false;
      if (told) {
        told = false;
        options.silent(null);
      }
    }

    function heardBoard(data) {
      heard();
      if (data) {
        options.show(data);
        renew(data.build);
      }
    }

    function later(again, ms) {
      broken = broken || again === open;
      window.clearTimeout(retry);
      retry = window.setTimeout(again, ms);
    }

    function open() {
      if (source) {
        source.close();
      }
      source = new window.EventSource(options.stream);
      source.addEventListener("board", function (event) {
        heardBoard(parse(event.data));
      });
      source.addEventListener("alive", function (event) {
        heard();
        renew((parse(event.data) || {}).build);
      });
      source.onerror = function () {
        broken = true;
        // The browser comes back by itself, unless it was told no.
        if (source.readyState === 2) {
          later(open, RETRY_MS);
        }
      };
    }

    function poll() {
      get(options.poll, function (data) {
        if (data) {
          heardBoard(data);
        } else {
          broken = true;
        }
        later(poll, POLL_MS);
      });
    }

    window.setInterval(function () {
      var silence = now() - heardAt;
      var at = new Date().getTime();
      var slept = at - awakeAt > SLEPT_MS && !document.hidden;
      awakeAt = at;
      if (source && slept) {
        broken = true;
        open();
      } else if (source && silence > SILENCE_MS) {
        broken = true;
        heardAt = now() - GRACE_MS;
        open();
      }
      if (broken && !told && silence > GRACE_MS) {
        told = true;
        options.silent(heardOn);
      }
    }, 1000);

    if (window.EventSource) {
      open();
      // A browser that keeps a page it left, to go back to it, keeps its stream too: six of them, and it opens no page here any more.
      window.addEventListener("pagehide", function () {
        source.close();
      });
      window.addEventListener("pageshow", function (event) {
        if (event.persisted) {
          open();
        }
      });
    } else {
      poll();
    }
  }

  return { get: get, listen: listen };
})();
