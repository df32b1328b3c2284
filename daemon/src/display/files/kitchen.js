// The kitchen's list: every open order with its lines, oldest first. Written in ES5.
(function () {
  "use strict";

  // Changes of lines do not move the board: they are seen at the latest after this.
  var REFRESH_MS = 10000;

  var WORDS = {
    CREATED: "new", CONFIRMED: "confirmed", PREPARING: "in work", READY: "ready", OUT_FOR_DELIVERY: "on its way",
    PENDING: "not paid", PAID: "paid", FAILED: "payment failed", REFUNDED: "refunded", PARTLY_REFUNDED: "partly refunded"
  };
  var ALARMS = { CANCELLED: "CANCELLED by the centre: stop", PAYMENT_FAILED: "PAYMENT FAILED: ask before you go on" };

  var hint = document.getElementById("hint");
  var orders = [];
  var more = false;
  var asking = false;
  var askAgain = false;

  function two(number) {
    return (number < 10 ? "0" : "") + number;
  }

  function time(date) {
    return date.getHours() + ":" + two(date.getMinutes());
  }

  function add(parent, tag, name, text) {
    var element = document.createElement(tag);
    element.className = name;
    if (text !== undefined) {
      element.textContent = text;
    }
    parent.appendChild(element);
    return element;
  }

  function age(order) {
    var minutes = Math.max(0, Math.floor((new Date().getTime() - Date.parse(order.createdAt)) / 60000));
    return minutes < 120 ? minutes + " min" : Math.floor(minutes / 60) + " h";
  }

  function line(list, entry) {
    var item = add(list, "li", entry.status === "READY" ? "line done" : "line");
    add(item, "b", "quantity", entry.quantity + " ×");
    add(item, "span", "food", entry.foodName || entry.foodId);
    var i;
    for (i = 0; entry.modifiers && i < entry.modifiers.length; i++) {
      add(item, "div", "modifier", "+ " + entry.modifiers[i]);
    }
    if (entry.notes) {
      add(item, "div", "notes", "“" + entry.notes + "”");
    }
    if (entry.allergens && entry.allergens.length > 0) {
      add(item, "div", "allergens", "Allergens: " + entry.allergens.join(", "));
    }
  }

  function card(parent, order) {
    var element = add(parent, "article", "card" + (order.alarm ? " alarm" : ""));
    var head = add(element, "div", "head");
    add(head, "span", "number", order.displayNumber || (order.ticket === undefined ? "–" : order.ticket));
    add(head, "span", "age", age(order));
    if (order.alarm) {
      add(element, "p", "stop", ALARMS[order.alarm] || order.alarm);
    }
    var facts = [WORDS[order.status] || order.status, WORDS[order.payment] || order.payment];
    if (order.channel) {
      facts.push(order.channel);
    }
    if (order.customerName) {
      facts.push(order.customerName);
    }
    if (order.dueAt) {
      var due = new Date(order.dueAt);
      facts.push("due " + (isNaN(due.getTime()) ? order.dueAt : time(due)));
    }
    if (order.maybeStored) {
      facts.push("perhaps doubled: ask the terminal");
    }
    add(element, "p", "facts", facts.join(" · "));
    var list = add(element, "ul", "lines");
    for (var i = 0; i < order.lines.length; i++) {
      line(list, order.lines[i]);
    }
    if (order.linesOmitted) {
      add(element, "p", "facts", "and " + order.linesOmitted + " more: see the receipt");
    }
  }

  function draw() {
    var work = document.createDocumentFragment();
    var ready = document.createDocumentFragment();
    var inWork = 0;
    for (var i = 0; i < orders.length; i++) {
      var isReady = orders[i].status === "READY" || orders[i].status === "OUT_FOR_DELIVERY";
      inWork += isReady ? 0 : 1;
      card(isReady ? ready : work, orders[i]);
    }
    var places = [["work", work], ["ready", ready]];
    for (var p = 0; p < places.length; p++) {
      var place = document.getElementById(places[p][0]);
      if (!places[p][1].childNodes.length) {
        add(places[p][1], "p", "none", "none");
      }
      place.textContent = "";
      place.appendChild(places[p][1]);
    }
    document.getElementById("count").textContent = inWork + " to do" + (more ? " (the oldest of more)" : "");
  }

  function ask() {
    if (asking) {
      askAgain = true;
      return;
    }
    asking = true;
    live.get("/api/v1/orders", function (data) {
      asking = false;
      if (data) {
        orders = data.orders;
        more = data.more;
        draw();
      }
      if (askAgain) {
        askAgain = false;
        ask();
      }
    });
  }

  function silent(since) {
    hint.className = since ? "hint shown" : "hint";
    hint.textContent = since ? "Not live: last news at " + time(since) + ". Orders may be missing: look at the tills too." : "";
  }

  function tick() {
    document.getElementById("clock").textContent = time(new Date());
  }

  window.setInterval(ask, REFRESH_MS);
  window.setInterval(tick, 1000);
  tick();
  ask();
  live.listen({ stream: "/api/v1/stream", poll: "/board.json", show: ask, silent: silent });
})();
