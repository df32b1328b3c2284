// The printers, as far as a cook has to do with them: a banner for one that needs a person, and copies. Written in ES5.
//
// printers.begin({say(text), mine(names), changed()}): `mine` tells whether a printer of these stations is this page's.
// printers.show(list): what the gateway says of them. printers.are(): whether there is one. printers.copy(order): has it printed once more.
var printers = (function () {
  "use strict";

  var REQUEST_MS = 15000;

  var page = null;
  var any = false;
  var banner = "";

  function needsPerson(printer) {
    return printer.needsPerson && page.mine(printer.stations);
  }

  function sentence(printer) {
    return texts.say("kitchen.printer", {
      name: printer.name, state: texts.word("printer", printer.state), waits: texts.say("kitchen.printer_waits", { count: printer.waiting })
    });
  }

  function parse(text) {
    try {
      return JSON.parse(text) || {};
    } catch (broken) {
      return {};
    }
  }

  return {
    begin: function (options) {
      page = options;
    },
    show: function (list) {
      var text = list.filter(needsPerson).map(sentence).join(" ");
      // The same text again would be read out again.
      if (text !== banner) {
        banner = text;
        var place = document.getElementById("printers");
        place.textContent = text;
        place.hidden = !text;
      }
      if (any !== list.length > 0) {
        any = list.length > 0;
        page.changed();
      }
    },
    are: function () {
      return any;
    },
    copy: function (order) {
      var number = cards.number(order);
      var request = new XMLHttpRequest();
      var over = false;
      function end(status, answer) {
        if (over) {
          return;
        }
        over = true;
        if (status === 202) {
          page.say(texts.say("kitchen.printing", { number: number, printers: answer.printers.join(", ") }));
        } else {
          var why = answer.code ? texts.word("code", answer.code) : texts.say("kitchen.answer", { status: String(status) });
          page.say(texts.say("kitchen.not_printed", { number: number, why: why }));
        }
      }
      request.open("POST", "/api/v1/orders/" + encodeURIComponent(order.orderId) + "/print", true);
      request.timeout = REQUEST_MS;
      request.setRequestHeader("Content-Type", "application/json");
      request.onload = function () {
        end(request.status, parse(request.responseText));
      };
      request.onerror = request.onabort = request.ontimeout = function () {
        end(0, {});
      };
      request.send("{}");
      return true;
    }
  };
})();
