const items = [{ id: 'first', text: 'build an image' }];

module.exports = {
  list: () => items,
  add: (item) => {
    items.push(item);
    return item;
  },
};
