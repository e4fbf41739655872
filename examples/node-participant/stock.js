// The business: pieces of items that can be reserved (TCC) and sold (a step of sagas). Each function works on the view that
// it is given; it neither stores nor asks whether it ran before: the barrier has done that.

import { Refused } from "./barrier.js";

const nameOf = (item) => `stock/${item}`;

// Reads an order: `{"item": "lamp", "pieces": 2}`.
function parse(payload) {
  let order;
  try {
    order = JSON.parse(payload.toString("utf8"));
  } catch {
    // The message of JSON.parse quotes the payload.
    throw new Refused("PAYLOAD_UNREADABLE", "the payload must be JSON with an item and pieces");
  }
  const { item, pieces } = order ?? {};
  if (typeof item !== "string" || !Number.isSafeInteger(pieces) || pieces <= 0) {
    throw new Refused("BAD_ORDER", "item must be a text, and pieces a number above zero");
  }
  return { item, pieces };
}

// Takes free pieces.
function take(view, { item, pieces }) {
  const stock = view.get(nameOf(item));
  if (!stock || stock.free < pieces) {
    throw new Refused("SOLD_OUT", `fewer than ${pieces} pieces of ${item.slice(0, 100)} are left`);
  }
  stock.free -= pieces;
  return stock;
}

// Phase two must find what phase one has left: without this an item that is gone would be lost as committed. The call fails
// and comes again, and a person looks at it.
function held(view, { item, pieces }) {
  const stock = view.get(nameOf(item));
  if (!stock || stock.reserved < pieces) throw new Error(`the reservation of ${pieces} x ${item} is gone`);
  stock.reserved -= pieces;
  return stock;
}

const json = (value) => ({ data: Buffer.from(JSON.stringify(value)).toString("base64"), mediaType: "application/json" });

const reserve = {
  prepare(view, payload) {
    const order = parse(payload);
    const stock = take(view, order);
    stock.reserved += order.pieces;
    view.set(nameOf(order.item), stock);
    return json({ reserved: order.pieces });
  },
  commit(view, payload) {
    const order = parse(payload);
    view.set(nameOf(order.item), held(view, order));
  },
  cancel(view, payload) {
    const order = parse(payload);
    const stock = held(view, order);
    stock.free += order.pieces;
    view.set(nameOf(order.item), stock);
  },
};

// A step of sagas. It is done for good; `cancel` is its compensation, and gets the output of `prepare`.
const sell = {
  prepare(view, payload, inputs) {
    const order = parse(payload);
    if (!inputs.customer) throw new Refused("INPUT_MISSING", "input customer must be given");
    let customer;
    try {
      customer = JSON.parse(inputs.customer.toString("utf8"));
    } catch {
      throw new Refused("INPUT_UNREADABLE", "input customer must be JSON");
    }
    customer = customer?.name ?? customer;
    if (typeof customer !== "string") throw new Refused("INPUT_UNREADABLE", "input customer must be a text");
    view.set(nameOf(order.item), take(view, order));
    const sale = (view.get("last-sale") ?? 0) + 1;
    view.set("last-sale", sale);
    view.set(`sale/${sale}`, { ...order, customer });
    return json({ sale });
  },
  cancel(view, payload, inputs, output) {
    const order = parse(payload);
    const { sale } = JSON.parse(Buffer.from(output.data, "base64").toString("utf8"));
    const stock = view.get(nameOf(order.item));
    if (!view.get(`sale/${sale}`) || !stock) throw new Error(`sale ${sale} of ${order.item} is gone`);
    view.remove(`sale/${sale}`);
    stock.free += order.pieces;
    view.set(nameOf(order.item), stock);
  },
};

// By mode and name: an action is offered in one mode.
export const ACTIONS = { tcc: { reserve }, saga: { sell } };

export function addItem(barrier, item, pieces) {
  if (!barrier.values.has(nameOf(item))) barrier.put({ [nameOf(item)]: { free: pieces, reserved: 0 } });
}
