// What a cook does with a ticket, in requests. Written in ES5.
//
// acts.begin({whole, isMine(line), find(order id), say(text)}): `whole` on a page without a station.
// acts.press(act, order, line): "line", "start", "done", "recall", "seen", "print". acts.recallLast(): takes the last bump of this page back.
var acts = (function () {
  "use strict";

  var UNDO_MAX = 20;

  var page = null;
  var undo = [];

  function remember(order, lines) {
    undo.push({ order: order.orderId, number: cards.number(order), lines: lines });
    undo = undo.slice(-UNDO_MAX);
  }

  // The numbers of this page's lines, from 1.
  function mine(order, wanted) {
    return order.lines.map(function (line, index) {
      return page.isMine(line) && (!wanted || wanted(line, index + 1)) ? index + 1 : 0;
    }).filter(Boolean);
  }

  function isOpen(line) {
    return line.status !== "READY";
  }

  // Whatever is on its way already is not asked for again.
  function isUnderWay(order, line) {
    return bumps.waiting(order.orderId).some(function (entry) {
      return entry.line ? entry.line === line : entry.kind !== "complete";
    });
  }

  function bumpLine(order, line) {
    if (!isOpen(order.lines[line - 1])) {
      return bumps.event(order.orderId, "PREPARING", line);
    }
    remember(order, [line]);
    return bumps.event(order.orderId, "READY", line) && bumps.complete(order.orderId);
  }

  // A station is done with its own lines, and with the order when they were the last. What was cut off is nobody's line: then it is the
  // whole order.
  function finish(order) {
    if (page.whole || order.linesOmitted) {
      remember(order, []);
      return bumps.event(order.orderId, "READY");
    }
    var lines = mine(order, function (line, number) {
      return isOpen(line) && !isUnderWay(order, number);
    });
    remember(order, lines);
    return lines.every(function (line) {
      return bumps.event(order.orderId, "READY", line);
    }) && bumps.complete(order.orderId);
  }

  function reopen(order, lines) {
    return bumps.reopen(order) && lines.every(function (line) {
      return bumps.event(order, "PREPARING", line);
    });
  }

  // What came back without an open line would look done: then all of it is to do again.
  function recall(order) {
    return reopen(order.orderId, mine(order, isOpen).length > 0 ? [] : mine(order));
  }

  function carryOut(act, order, line) {
    switch (act) {
      case "line":
        return bumpLine(order, line);
      case "start":
        return bumps.event(order.orderId, "PREPARING");
      case "done":
        return finish(order);
      case "recall":
        return recall(order);
      case "print":
        return printers.copy(order);
      default:
        return bumps.seen(order.orderId);
    }
  }

  function told(taken) {
    if (!taken) {
      page.say(texts.say("kitchen.too_much"));
    }
  }

  return {
    begin: function (options) {
      page = options;
    },
    press: function (act, shown, line) {
      var order = page.find(shown.orderId);
      if (order && !isUnderWay(order, line)) {
        told(carryOut(act, order, line));
      }
    },
    recallLast: function () {
      var last = undo.pop();
      if (last) {
        page.say(texts.say("kitchen.recalled", { number: last.number }));
        told(reopen(last.order, last.lines));
      } else {
        page.say(texts.say("kitchen.nothing_to_recall"));
      }
    }
  };
})();
