// How the gateway is, every two seconds. Written in ES5.
(function () {
  "use strict";

  var REFRESH_MS = 2000;
  // The server waits for Kafka before it decides.
  var DECISION_MS = 15000;

  var hint = document.getElementById("hint");
  var heardOn = new Date();
  var shownLetters = 0;

  function two(number) {
    return (number < 10 ? "0" : "") + number;
  }

  function time(date) {
    return date.getHours() + ":" + two(date.getMinutes());
  }

  function duration(ms) {
    if (ms === null || ms === undefined) {
      return "–";
    }
    var seconds = Math.round(ms / 1000);
    if (seconds < 120) {
      return seconds + " s";
    }
    var minutes = Math.round(seconds / 60);
    return minutes < 120 ? minutes + " min" : Math.round(minutes / 60) + " h";
  }

  function bytes(count) {
    if (count < 10240) {
      return count + " B";
    }
    return count < 10485760 ? Math.round(count / 1024) + " KiB" : Math.round(count / 1048576) + " MiB";
  }

  function verdict(state) {
    if (state.disk !== "well") {
      return state.disk === "stalled" ? "The disk does not answer: terminals wait." : "The disk fails: no orders are taken. See the log.";
    }
    if (!state.accepting) {
      return "No new orders are taken: the store is full.";
    }
    if (state.kafka !== "up") {
      return "The line to Kafka is down. Orders are taken and kept: " + state.queued + " are waiting.";
    }
    return state.deadLetters > 0 ? "Running. Dead letters wait for a decision." : "Running.";
  }

  function show(state) {
    var rows = [
      ["Line to Kafka", state.kafka],
      ["Events waiting", state.queued + " (" + bytes(state.queuedBytes) + ")"],
      ["Oldest waiting for", duration(state.oldestQueuedMs)],
      ["Events on their way", state.windowEvents],
      ["Sent again", state.retries],
      ["Dead letters", state.deadLetters],
      ["Open orders", state.openOrders],
      ["Requests in flight", state.requestsInFlight],
      ["Statuses in flight", state.statusesInFlight],
      ["Last position (seq)", state.lastSeq]
    ];
    var figures = document.createDocumentFragment();
    for (var i = 0; i < rows.length; i++) {
      var row = document.createElement("tr");
      var name = document.createElement("th");
      var value = document.createElement("td");
      name.scope = "row";
      name.textContent = rows[i][0];
      value.textContent = rows[i][1];
      row.appendChild(name);
      row.appendChild(value);
      figures.appendChild(row);
    }
    var table = document.getElementById("figures");
    table.textContent = "";
    table.appendChild(figures);
    var damaged = document.getElementById("damaged");
    damaged.textContent = state.damagedStores.length === 0 ? "" :
      "A damaged store was moved aside and is kept. Look at what is missing, then remove it: " + state.damagedStores.join("; ");
    var sentences = document.createDocumentFragment();
    for (var j = 0; j < state.attention.length; j++) {
      var sentence = document.createElement("li");
      sentence.textContent = state.attention[j];
      sentences.appendChild(sentence);
    }
    var attention = document.getElementById("attention");
    attention.textContent = "";
    attention.appendChild(sentences);
    document.getElementById("version").textContent = "dumbwaiter " + state.version;
    var line = document.getElementById("verdict");
    line.textContent = verdict(state);
    line.className = "verdict " + (state.accepting && state.kafka === "up" && state.deadLetters === 0 && state.damagedStores.length === 0 && state.attention.length === 0 ? "well" : "unwell");
  }

  function said(text) {
    document.getElementById("letter-said").textContent = text;
  }

  // The server takes it from its own computer alone, and from no other page.
  function decide(seq, decision) {
    var request = new XMLHttpRequest();
    request.open("POST", "/api/v1/dead-letters/" + seq, true);
    request.setRequestHeader("Content-Type", "application/json");
    request.timeout = DECISION_MS;
    request.onload = function () {
      var answer = {};
      try {
        answer = JSON.parse(request.responseText);
      } catch (broken) {
        // The status says enough.
      }
      said(request.status === 200 ? "Seq " + seq + ": " + answer.appended + " queued again." : "Seq " + seq + ": " + (answer.message || request.status));
      letters();
    };
    request.onerror = request.ontimeout = function () {
      said("Seq " + seq + ": no answer. Look whether it is still here, then decide again.");
    };
    request.send(JSON.stringify({ decision: decision }));
  }

  function button(seq, decision, label) {
    var element = document.createElement("button");
    element.type = "button";
    element.textContent = label;
    element.onclick = function () {
      if (decision === "retry" || window.confirm("Give this event up for good?")) {
        element.disabled = true;
        decide(seq, decision);
      }
    };
    return element;
  }

  function letters() {
    live.get("/api/v1/dead-letters", function (found) {
      if (!found) {
        return;
      }
      var list = document.createDocumentFragment();
      for (var i = 0; i < found.deadLetters.length; i++) {
        var letter = found.deadLetters[i];
        var item = document.createElement("li");
        var text = letter.orderId + ", " + letter.type + ", seq " + letter.seq + ", " + letter.held + " behind it: " + letter.reason + " ";
        item.appendChild(document.createTextNode(text));
        item.appendChild(button(letter.seq, "retry", "Retry"));
        item.appendChild(document.createTextNode(" "));
        item.appendChild(button(letter.seq, "discard", "Discard"));
        list.appendChild(item);
      }
      var place = document.getElementById("letter-list");
      place.textContent = "";
      place.appendChild(list);
      document.getElementById("letters").hidden = found.deadLetters.length === 0;
    });
  }

  function ask() {
    live.get("/api/v1/state", function (state) {
      if (state) {
        heardOn = new Date();
        show(state);
        if (state.deadLetters !== shownLetters) {
          shownLetters = state.deadLetters;
          letters();
        }
      }
      hint.className = state ? "hint" : "hint shown";
      hint.textContent = state ? "" : "Not live: last news at " + time(heardOn) + ".";
      window.setTimeout(ask, REFRESH_MS);
    });
  }

  function tick() {
    document.getElementById("clock").textContent = time(new Date());
  }

  window.setInterval(tick, 1000);
  tick();
  ask();
})();
