// Dead letters and their buttons: nothing is decided before a person said yes to it. Written in ES5.
//
// letters.look(key): reads them anew if `key` is not the one of the last time.
var letters = (function () {
  "use strict";

  // The server waits for Kafka before it decides.
  var DECISION_MS = 15000;

  var known = null;
  var found = [];
  var more = false;
  // The seq and the decision that wait for a yes, the seq that is on its way, and the one whose event is shown.
  var asked = null;
  var underWay = 0;
  var opened = 0;

  function say(text) {
    document.getElementById("letter-said").textContent = text;
  }

  function button(id, text, press, className) {
    var element = parts.make("button", text, className);
    element.type = "button";
    element.id = id;
    element.disabled = underWay !== 0;
    element.onclick = press;
    return element;
  }

  function ask(seq, decision) {
    return function () {
      asked = { seq: seq, decision: decision };
      show();
      document.getElementById("letter-" + seq + "-yes").focus();
    };
  }

  function leave(seq, decision) {
    return function () {
      asked = null;
      show();
      document.getElementById("letter-" + seq + "-" + decision).focus();
    };
  }

  function open(seq) {
    return function () {
      opened = opened === seq ? 0 : seq;
      show();
    };
  }

  function acts(letter) {
    var place = parts.make("p", null, "letter-acts");
    var name = "letter-" + letter.seq;
    if (asked && asked.seq === letter.seq) {
      place.appendChild(parts.make("b", texts.word("operations.sure", asked.decision) + " "));
      place.appendChild(button(name + "-yes", texts.word("operations.yes", asked.decision), decide(letter.seq, asked.decision), "sure"));
      place.appendChild(button(name + "-no", texts.say("operations.no"), leave(letter.seq, asked.decision)));
      return place;
    }
    place.appendChild(button(name + "-retry", texts.say("operations.retry"), ask(letter.seq, "retry")));
    place.appendChild(button(name + "-discard", texts.say("operations.discard"), ask(letter.seq, "discard")));
    var show = button(name + "-show", texts.say("operations.show"), open(letter.seq));
    show.setAttribute("aria-expanded", opened === letter.seq ? "true" : "false");
    place.appendChild(show);
    return place;
  }

  function item(letter) {
    var element = parts.make("li");
    var fields = { order: letter.orderId, type: letter.type, seq: String(letter.seq), since: texts.moment(new Date(letter.since)), terminal: letter.terminal };
    element.appendChild(parts.make("b", texts.say("operations.letter", fields)));
    var reason = parts.make("p", letter.reason);
    reason.lang = "en";
    element.appendChild(reason);
    if (letter.held > 0) {
      element.appendChild(parts.make("p", texts.say("operations.held", { count: letter.held })));
    }
    element.appendChild(acts(letter));
    if (opened === letter.seq) {
      var event = parts.make("pre", JSON.stringify(letter.event, null, 2), "letter-event");
      event.tabIndex = 0;
      element.appendChild(event);
    }
    return element;
  }

  function show() {
    document.getElementById("letters-area").hidden = found.length === 0;
    parts.fill("letters", [found, more, asked, underWay, opened], function (place) {
      found.forEach(function (letter) {
        place.appendChild(item(letter));
      });
      if (more) {
        place.appendChild(parts.make("li", texts.say("operations.letters_more")));
      }
    });
  }

  function read() {
    live.get("/api/v1/dead-letters", function (answer) {
      if (!answer) {
        known = null;
        return;
      }
      found = answer.deadLetters;
      more = answer.more;
      show();
    });
  }

  function decided(seq, decision, request) {
    var answer = {};
    try {
      answer = JSON.parse(request.responseText);
    } catch (broken) {
      // The status says enough.
      answer = {};
    }
    if (request.status === 200) {
      var done = decision === "retry" ? "operations.done_retry" : "operations.done_discard";
      say(texts.say(done, { seq: String(seq), count: answer.appended }));
    } else {
      say(texts.say("operations.not_done", { seq: String(seq), why: answer.message || String(request.status) }));
    }
  }

  function decide(seq, decision) {
    return function () {
      asked = null;
      underWay = seq;
      show();
      say(texts.say("operations.deciding", { seq: String(seq) }));
      var request = new XMLHttpRequest();
      request.open("POST", "/api/v1/dead-letters/" + seq, true);
      request.setRequestHeader("Content-Type", "application/json");
      request.timeout = DECISION_MS;
      request.onload = function () {
        underWay = 0;
        decided(seq, decision, request);
        show();
        read();
      };
      request.onerror = request.ontimeout = function () {
        underWay = 0;
        say(texts.say("operations.no_answer", { seq: String(seq) }));
        show();
        read();
      };
      request.send(JSON.stringify({ decision: decision }));
    };
  }

  return {
    look: function (key) {
      if (key !== known) {
        known = key;
        read();
      }
    }
  };
})();
