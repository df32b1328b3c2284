// Guards against a press that was meant for something else: a ticket leaves, the next one moves under the finger, and the second tap of a
// double tap would bump it. What moved or was pressed less than a moment ago takes no press by hand. Written in ES5.
//
// settle.look(buttons): after each drawing; a button is known by its `data-key`. settle.isSettled(button), settle.pressed(button).
var settle = (function () {
  "use strict";

  var SETTLE_MS = 600;
  var MOVED_PX = 8;

  var places = {};
  var since = {};

  function now() {
    return new Date().getTime();
  }

  function keyOf(button) {
    return button.getAttribute("data-key");
  }

  // On the page, so that scrolling moves nothing.
  function placeOf(button) {
    var box = button.getBoundingClientRect();
    return [box.left + window.pageXOffset, box.top + window.pageYOffset];
  }

  function isElsewhere(was, is) {
    return !was || Math.abs(was[0] - is[0]) > MOVED_PX || Math.abs(was[1] - is[1]) > MOVED_PX;
  }

  return {
    look: function (buttons) {
      var at = now();
      var before = places;
      places = {};
      buttons.forEach(function (button) {
        var key = keyOf(button);
        places[key] = placeOf(button);
        if (isElsewhere(before[key], places[key])) {
          since[key] = at;
        }
      });
      Object.keys(since).forEach(function (key) {
        if (at - since[key] >= SETTLE_MS) {
          delete since[key];
        }
      });
    },
    isSettled: function (button) {
      var key = keyOf(button);
      var place = placeOf(button);
      // Something else than a drawing moved it: a hint that went, another size of the window.
      if (isElsewhere(places[key], place)) {
        places[key] = place;
        since[key] = now();
      }
      return !(now() - since[key] < SETTLE_MS);
    },
    pressed: function (button) {
      since[keyOf(button)] = now();
    }
  };
})();
